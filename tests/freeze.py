"""To be imported last: what is in memory by then, the libraries, is left out of all later garbage collections.

Every training collects several times, and to go through a million objects takes longer than a tiny training.
"""

import gc

gc.collect()
gc.freeze()
