"""Tests of wire/grpc/."""
