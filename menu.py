"""Choose what to do from lists, see the command, run it: for people who do not want to remember commands.

  python menu.py                        # the runs of outputs/
  python menu.py --outputs <folder>     # of another folder

Pick a system and a step of its pipeline; look at the settings, each with its meaning, and change some (a wrong value is refused
at once; several values, separated by commas, make a sweep); check or run. The menu does nothing itself: it composes one of
the commands that you could have typed, prints it, and runs it. Ctrl-C stops what is running and comes back; at a question it
goes back one screen. Needs a terminal of at least 80 x 24 characters.
"""

from microlatent.menu.screens import main

if __name__ == "__main__":
    main(__doc__)
