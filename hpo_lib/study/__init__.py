"""Run durable studies: the driver, the record, storage, stopping and resuming.

| module          | contents                                                             |
| --------------- | -------------------------------------------------------------------- |
| `run`           | `run_study`: checks its arguments, opens the study, starts a driver  |
| `driver`        | the loop that asks for trials, sends out segments and records them   |
| `gp_minimize`   | scikit-optimize's function, with a study underneath                  |
| `background`    | a study beside its caller: paused, stopped, resized                  |
| `settings`      | what a study was begun with, and may not change; its first trials    |
| `stopping`      | rules that end a study before its budget                             |
| `retrain`       | the best configurations trained again, with fresh seeds              |
| `steering`      | `versions` (another search space), `promotion`, `held`, `notes`      |
| `catalog`       | studies opened, listed, deleted and tabulated                        |
| `storage`       | an SQLite file, an Optuna URL or a storage object, opened            |
| `sqlite_file`   | the file behind an SQLite storage                                    |
| `single_writer` | the storage as the driver sees it, which keeps the trials in memory  |
| `lease`         | the right of one driver at a time to write a study                   |
| `checkpoints`   | the folder in which the trials of a study write                      |
| `workers`       | segments evaluated: in this process, in local ones, on a cluster     |
"""
