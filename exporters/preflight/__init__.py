"""The ``preflight`` command: will a mobile runtime load this file?"""
