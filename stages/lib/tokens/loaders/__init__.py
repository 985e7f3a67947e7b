"""The field's training-data loaders, one per file; `train.loader` names the file.

| file       | the next batch                                                       | of                          | looks random |
|------------|----------------------------------------------------------------------|-----------------------------|--------------|
| sequential | the next tokens of the text                                          | naive baseline, #549, #1019 | no           |
| coprime    | strides through several shards at once                               | #1060, #1218, #1285         | nearly       |
| shuffled   | any windows not yet seen in this epoch                               | #1394, #1493                | yes          |
| packed     | the next documents, attention kept inside each                       | #1530, #1855                | no           |

The module lib/tokens/loader.py holds what they share. Nothing is read ahead: a loader fills a batch faster than any one device trains on it
(benchmarks/loader.py), and shards are memory-mapped, so their pages are read ahead by the operating system.
"""
