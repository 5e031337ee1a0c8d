"""The process that stays with a container; standard library only, no asyncio."""
