"""Google's CEL kept at arm's length: what may be compiled, what goes in, what comes out, and how it says no."""
