"""What every package of the runtime uses: plug-ins by their name, and the error for a damaged artifact."""
