"""The outputs folder in a browser: every run and sweep with its state, each opening its report; reads only, writes nothing.

``python -m microlatent.dashboard --outputs outputs`` starts it (``__main__.py``). ``inventory.py`` keeps the list, ``server.py``
answers requests, ``pages/`` holds what a browser shows.
"""
