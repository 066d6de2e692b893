"""What measuring on Android phones is made of. Nothing here registers a device."""
