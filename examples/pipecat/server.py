"""A telephone bot whose calls outlive its server. The lines with a number are what this project adds to a bot of Pipecat.

Try it with Redis, a coordinator (`coordinator run`) and two of these, behind a door of your own or a provider's balancer:

    pip install "recovery-coordinator[pipecat]" uvicorn
    PORT=8001 python server.py &
    PORT=8002 python server.py &

The provider's instructions for a call must connect it again when its stream ends (docs/pipecat.md). Kill a server: its calls go on at
the other one, with all that was said. Stop one with SIGTERM: its calls move between two sentences.
"""

import contextlib
import os
import signal
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Response, WebSocket
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from services import RATE, Counting, Keys, Tone

from coordinator import Worker  # 1
from coordinator.adapters.pipecat import PipecatCall, WebsocketDoor  # 2

PORT = int(os.environ.get("PORT", "8001"))


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Worker(name=f"bot-{PORT}", capacity=50) as worker:  # 3: the Redis of COORDINATOR_REDIS_URL
        app.state.door = WebsocketDoor(worker)  # 4
        async with app.state.door.drained_on(signal.SIGTERM):  # 5: calls move before the server ends
            yield


app = FastAPI(lifespan=lifespan)


@app.websocket("/media")
async def media(websocket: WebSocket) -> None:
    await app.state.door.answer(websocket, bot)  # 6: reads which call it is; opens it, or takes it from where it was


@app.get("/ready")
async def ready(response: Response) -> None:
    response.status_code = 200 if app.state.door.is_open else 503


async def bot(call: PipecatCall) -> None:
    serializer = call.guard(  # 7: hangs up when the bot ends the call, and never a call that goes on elsewhere
        TwilioFrameSerializer(
            stream_sid=call.start.stream_id,
            call_sid=call.start.call_id,
            account_sid=os.environ.get("TWILIO_ACCOUNT_SID", "AC0"),
            auth_token=os.environ.get("TWILIO_AUTH_TOKEN", "none"),
        )
    )
    transport = FastAPIWebsocketTransport(
        call.websocket,  # 8: silent as soon as another worker has the call
        FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer),
    )
    context = call.keep(
        LLMContext([{"role": "system", "content": "Count what the caller says."}])
    )  # 9: as it was, if it was
    turns = LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies())  # the keys say when a turn ends
    user, assistant = LLMContextAggregatorPair(context, user_params=turns)
    pipeline = Pipeline([transport.input(), Keys(), user, Counting(), Tone(), transport.output(), assistant])
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    await call.run(PipelineWorker(pipeline, params=params), on_recovered="We were cut off. Where were we?")  # 10


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
