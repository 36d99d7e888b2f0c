"""Fit a model to data that infer.py task=assemble made ready.

  python train.py model=vqvae_z16 data=wells data.root=<raw files>      # fit
  python train.py experiment=wells_demo                                 # a whole recipe, here on the simulated specimen
  python train.py ... check=true                                        # check: read a batch, estimate, write nothing
  python train.py resume=<run folder>|latest                            # continue an interrupted run, bit for bit
  python train.py rerun=<run folder>                                    # repeat a run from its folder alone
  python train.py -m model.num_codes=32,64 seed=1,2,3                   # sweep: every combination
  python train.py -m hydra/sweeper=study 'trainer.lr=interval(1e-4,1e-2)'   # search: trials that Optuna asks for
  python train.py resume=<sweep folder>                                 # run what a sweep lacks
  torchrun --nproc-per-node=2 train.py ...                              # several processes, one run

A run is a folder under outputs/: config.yaml, provenance.json, status.json, history.csv, checkpoints/, figures/.
The loop is in src/microlatent/training.py, the model and its loss in src/microlatent/models/.
Exit codes: 0 done, 1 some jobs of a sweep failed, 2 bad input, 75 stopped by SIGTERM or SIGUSR1 with everything saved,
130 Ctrl-C (saved too).
"""

from microlatent.entry import main

if __name__ == "__main__":
    main("train", __doc__)
