"""The bundle: exported files, their manifest, their golden pack and the model they came from."""
