"""No transform."""


def forward(data: bytes) -> bytes:
    return data


def inverse(data: bytes) -> bytes:
    return data
