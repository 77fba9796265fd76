"""Train a network on images.

| module         | contents                                                               |
| -------------- | ---------------------------------------------------------------------- |
| `resnet`       | the network: residual blocks, stages, published architectures          |
| `loaders`      | images as tensors; shuffled, augmented batches made on the device      |
| `splits`       | data sets by name; their seeded, stratified split                      |
| `cifar`        | CIFAR-10 and CIFAR-100: downloaded, checked                            |
| `image_folder` | decoded image files                                                    |
| `config`       | `TrainingConfig` and `DataConfig`, validated when they are made        |
| `optimization` | network, loss and optimizer, also a user's own; learning rate schedule |
| `trainer`      | `train` and `evaluate`                                                 |
| `checkpoints`  | the file from which a training goes on                                 |
| `objective`    | `TrainingObjective`: a training as the objective of a search           |
| `hardware`     | device, precision, seeds; memory and vector registers of a CPU         |
"""
