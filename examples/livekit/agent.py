"""An agent whose calls outlive its worker. The lines with a number are what this project adds to an agent of LiveKit.

Try it with Redis, LiveKit, a coordinator (`coordinator run`) and two of these on one machine:

    pip install "recovery-coordinator[livekit]"
    NAME=agents-1 python agent.py start &
    NAME=agents-2 python agent.py start &

Kill one: its calls go on at the other, with all that was said. Stop one with SIGTERM: its calls move, and callers do not notice.
"""

import os

from livekit.agents import Agent, AgentSession, JobContext, cli
from services import Counting, Tone

from coordinator.adapters.livekit import RecoveringServer, recover  # 1

server = RecoveringServer(  # 2: in the place of AgentServer, with all its arguments
    port=0,
    recovery={"name": os.environ.get("NAME", "agents-1")},  # 3: any setting; the Redis of COORDINATOR_REDIS_URL
)


@server.rtc_session(agent_name="counter")
async def entrypoint(ctx: JobContext) -> None:
    session = AgentSession(llm=Counting(), tts=Tone(), vad=None, userdata={"topic": "numbers"})
    agent = Agent(instructions="Count what the caller says.")
    await recover(
        ctx, session, agent, on_recovered="I am back."
    )  # 4: in the place of session.start(agent, room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
