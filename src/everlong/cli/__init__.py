"""The command line: what a verb takes is in `verbs/`, what it does in the module of its name; app.py lists them."""
