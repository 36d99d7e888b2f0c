"""Make raw files ready, or put a trained model to work.

  python infer.py task=patch data=wells data.root=<images and masks>    # single-cell patches and tracks
  python infer.py task=assemble data=wells data.root=<raw files>        # one store per well, ready to train
  python infer.py task=process run=<run folder>|latest|best             # the latents table
  python infer.py ... check=true                                        # check: open the data, estimate, write nothing

With run=..., the data settings are those of the run, except what is typed. Results of a run lie in its own folder.
The tasks are in src/microlatent/tasks/, one file each.
"""

from microlatent.entry import main

if __name__ == "__main__":
    main("infer", __doc__)
