"""Operations whose answers never came, that were cancelled, or that met another one: what must be true afterwards."""
