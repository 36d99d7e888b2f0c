"""Turn tables into knowledge; needs no network weights and no GPU.

  python analyze.py task=match run=<run folder>|latest                  # trajectories of latents
  python analyze.py task=embed run=<run folder>|latest                  # PCA, UMAP, exemplars, linear probes
  python analyze.py task=compare task.runs=<sweep folder>               # across what was varied and across seeds
  python analyze.py task=report run=<run or sweep folder>|latest        # one HTML page
  python analyze.py ... check=true                                      # check: open the tables, write nothing

Figures and tables lie in the run's folder, under the name of the task.
The tasks are in src/microlatent/tasks/, the statistics they use in src/microlatent/analysis/.
"""

from microlatent.entry import main

if __name__ == "__main__":
    main("analyze", __doc__)
