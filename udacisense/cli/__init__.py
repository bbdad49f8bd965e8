"""The front door: ``udacisense COMMAND``, one file a command."""
