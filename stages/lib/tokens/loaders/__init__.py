"""The contest's training-data loaders, one per file; `train.loader` names the file.

| file       | the next batch                                                       | of                          | looks random |
|------------|----------------------------------------------------------------------|-----------------------------|--------------|
| sequential | the next tokens of the text                                          | naive baseline, #549, #1019 | no           |
| coprime    | strides through several shards at once                               | #1060, #1218, #1285         | nearly       |
| shuffled   | any windows not yet seen in this epoch                               | #1394, #1493                | yes          |
| documents  | any rows not yet seen in this epoch, of documents in another order    | slowrun, 2026               | yes          |
| packed     | the next documents, attention kept inside each                       | #1530, #1855                | no           |

Their common base is lib/tokens/loader.py. Loaders do not read ahead: filling a batch takes less time than any single device needs to train
on it (benchmarks/loader.py), and shards are memory-mapped, so the operating system reads their pages ahead.
"""
