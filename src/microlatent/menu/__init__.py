"""The menu: commands composed from lists. It has no logic of its own, only the registry, Hydra's composition and the commands.

``pipelines.py`` says what can be done, ``draft.py`` holds the command that is being composed, ``screens.py`` is the way from
screen to screen, ``questions.py`` asks, ``picking.py`` lists runs, ``terminal.py`` runs the command.
"""
