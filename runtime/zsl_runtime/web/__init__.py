"""The page of `zsl-demo`: photographs in, labels out, classes come and go. Starlette and uvicorn, on this machine."""
