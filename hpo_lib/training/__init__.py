"""Train a CIFAR ResNet: data sets, batches, network, configuration and trainer."""
