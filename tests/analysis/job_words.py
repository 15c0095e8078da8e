"""The words of a training job, parsed as its command does."""


def check_words(job, command, folder):
    """They ask for the job's configuration, in its folder, to be gone on with."""
    arguments = command.parsed(job.words)
    assert arguments.config == job.config
    assert arguments.out == folder / job.name
    assert arguments.resume
