"""Phones on the desk: a bundle goes to the demo app over adb, its measurements come back as the harness's records."""
