"""Which records a file, folder or hub name holds, and which shape they have."""
