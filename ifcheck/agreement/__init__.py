"""How far predicted changes agree with true ones, and how that differs between cells."""
