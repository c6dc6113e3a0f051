"""What blocks cost on this machine, in time and in memory."""
