"""``label-studio``: the bridge between the topics and a Label Studio."""

from __future__ import annotations

from stream_al.cli.options import ConfigFile, Overrides, examples, settings_of
from stream_al.cli.running import serve

LABEL_STUDIO_EXAMPLES = examples(
    "export STREAM_AL_LABEL_STUDIO__TOKEN",
    "stream-al label-studio --set label_studio.url=http://127.0.0.1:8080",
    "stream-al label-studio --set label_studio.project=12 --set label_studio.guess=false",
)


def label_studio(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Let people answer in Label Studio, until told to stop.

    Requests become tasks of the project label_studio.project, which is made with the known classes where there is none;
    annotations become labels, changed ones corrections, and tasks that nobody needs an answer to any more are deleted.
    The token stands in STREAM_AL_LABEL_STUDIO__TOKEN or in the file label_studio.token_file.

    Start it beside the service, as often as you like: one works and the others stand by. Whatever is killed or away, no
    request becomes two tasks and no answer is lost.
    """
    from stream_al.bridges.label_studio import address
    from stream_al.service.loop import Loop

    settings = settings_of(config, overrides, level="settings")
    address(settings)  # what is missing is said before a broker is waited for
    http = settings.http.model_copy(update={"port": settings.label_studio.port})
    serve(settings.model_copy(update={"http": http}), "label-studio", Loop.install_signals)
