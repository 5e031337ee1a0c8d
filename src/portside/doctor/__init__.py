"""What keeps a root healthy: explain every byte of it, verify it, repair it, rebuild it, take over containerd's."""
