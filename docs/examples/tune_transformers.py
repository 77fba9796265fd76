"""Tune a Hugging Face model with its Trainer, with early stopping and checkpoints, offline."""

import numpy as np
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from hpo_lib import SearchSpace, run_study

SPACE = SearchSpace.from_yaml(
    """
lr: {type: float, low: 1e-4, high: 0.03, log: true, default: 0.003}
dropout: {type: float, low: 0, high: 0.3, default: 0.1}
"""
)

# Sentences of 12 words out of 8: does word 0 come more often than word 1?
words = np.random.default_rng(0).integers(8, size=(800, 12))
labels = (words == 0).sum(axis=1) > (words == 1).sum(axis=1)
DATA = [
    {"input_ids": sentence, "labels": int(label)}
    for sentence, label in zip(words, labels, strict=True)
]

disable_progress_bar()


class StopAfterEpoch(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def error(prediction):
    wrong = prediction.predictions.argmax(axis=1) != prediction.label_ids
    return {"error": wrong.mean()}


def train(configuration, context):
    def build():  # a model with random weights; or `from_pretrained` a local folder
        dropout = {"hidden_dropout_prob": configuration["dropout"]}
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        config = BertConfig(vocab_size=8, num_attention_heads=2, **size, **dropout)
        return BertForSequenceClassification(config)

    arguments = TrainingArguments(
        output_dir=str(context.folder / "trainer"),
        num_train_epochs=context.budget,  # the learning rate falls over all of them
        learning_rate=configuration["lr"],
        per_device_train_batch_size=8,
        seed=context.seed,
        save_strategy="epoch",
        logging_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model_init=build,
        args=arguments,
        train_dataset=DATA[:400],
        eval_dataset=DATA[400:800],
        compute_metrics=error,
        callbacks=[StopAfterEpoch()],
    )
    trainer.remove_callback(PrinterCallback)

    checkpoint = context.load()  # the name of the Trainer's own
    for _ in range(context.epoch, context.budget):
        path = checkpoint and f"{arguments.output_dir}/{checkpoint}"
        trainer.train(resume_from_checkpoint=path)
        checkpoint = f"checkpoint-{trainer.state.global_step}"
        context.save(checkpoint)
        yield trainer.evaluate()["eval_error"]


if __name__ == "__main__":
    options = {"name": "transformers", "storage": "examples.db", "budget": 9, "pruning": "asha"}
    study = run_study(train, SPACE, n_trials=12, **options)
    print(study.best_params, study.best_value)
