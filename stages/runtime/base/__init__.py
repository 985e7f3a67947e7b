"""What every room of the runtime uses: plug-ins by their name, and the error of a damaged artifact."""
