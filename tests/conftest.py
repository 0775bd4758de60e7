"""What holds for all tests."""

import signal

# A run started in the background of a shell ignores SIGINT, and so would the commands that tests
# start and interrupt: a handler of our own becomes the default in them.
signal.signal(signal.SIGINT, signal.default_int_handler)
