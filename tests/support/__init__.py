"""What several test rooms share: real peers, images, counts of what is left behind."""
