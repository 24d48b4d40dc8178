"""What `mlxquant doctor` finds out: the machine, the software, and whether kernels are right.

    examine.py        all of it, as one document
    surroundings.py   versions, MLX's device, the compiler, the folder of the kernels
    backends.py       which backend every operation takes, and why
    checks.py         what a case is, and the tally of many
    on_processor.py   the cases of kernels on this processor; on_gpu.py of those on a GPU;
                      of either: products.py, encoding.py, searching.py
    speeds.py         how fast kernels are
    private.py        takes names of people and machines out of it
    tables.py         the document as rows of text; page.py as a page for an issue

Nothing here reaches the network, and nothing is written but kernels in their own folder.
"""
