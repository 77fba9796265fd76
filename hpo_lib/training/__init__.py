"""Train a network on images.

| module         | contents                                                               |
| -------------- | ---------------------------------------------------------------------- |
| `resnet`       | the network: residual blocks, stages, published architectures          |
| `loaders`      | images as tensors; shuffled, augmented batches made on the device      |
| `datasets`     | data sets by name; `cifar10` downloads, `image_folder` decodes files   |
| `splits`       | seeded, stratified division into training, validation and test images  |
| `config`       | `TrainingConfig` and `DataConfig`, validated when they are made        |
| `optimization` | network, loss and optimizer, also a user's own; learning rate schedule |
| `trainer`      | `train` and `evaluate`                                                 |
| `checkpoints`  | the file from which a training goes on                                 |
| `objective`    | `TrainingObjective`: a training as the objective of a search           |
| `hardware`     | device, precision, seeds; memory and vector registers of a CPU         |
"""
