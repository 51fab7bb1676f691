"""From text to verdict: answers, equations, steps."""
