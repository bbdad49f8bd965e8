"""Phones on the desk: a bundle goes to the demo app over adb, its measurements come back as the harness's records.

=============  ===================================================================
``contract``   the names that the app and the desk share
``phone``      one phone: run, send, read; every way that this fails as one sentence
``phones``     which phones are there, which are meant, and work on several at once
``install``    the app itself
``push``       a checked bundle, whole on the phone or not there at all
``orders``     ask the app to test or to measure itself, and wait for its answer
``results``    the app's answers, read strictly and made into what report and gate take
``pull``       every result on a phone
``stage``      a bundle into the sources of the app, for a build that carries it
=============  ===================================================================
"""
