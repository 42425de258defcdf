"""switch: the D-Bus connections and every table; ``api`` is the waist."""
