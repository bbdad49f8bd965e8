"""The ``verify`` command: does every exported file answer as its source does?"""
