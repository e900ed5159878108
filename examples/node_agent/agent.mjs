// An agent in Node: the task comes as JSON on standard input, the endpoint in the environment, and the
// last line of standard output is the answer. Any language that can do this is as good.
import { readFileSync } from "node:fs";

const task = JSON.parse(readFileSync(0, "utf8"));

const response = await fetch(`${process.env.OPENAI_BASE_URL}/chat/completions`, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",
    Authorization: `Bearer ${process.env.OPENAI_API_KEY}`,
  },
  body: JSON.stringify({
    model: process.env.OPENAI_MODEL,
    messages: [{ role: "user", content: task.question }],
  }),
});
if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
const answer = (await response.json()).choices[0].message.content ?? "";

// The reward: right, and not a word too many.
const right = answer.includes(task.answer) ? 1 : 0;
console.log(JSON.stringify({ reward: right - answer.length / 1000 }));
