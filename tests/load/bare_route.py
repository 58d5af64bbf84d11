"""The yardstick of the benchmark: a FastAPI route that reads its body and does nothing else."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()


@app.put("/")
async def read(request: Request) -> Response:
    await request.body()
    return Response()


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
