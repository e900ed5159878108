// Vercel's ai package, by the provider that the argument names.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = () => createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const model = {
  chat: () => openai().chat("toy"),
  responses: () => openai().responses("toy"),
  anthropic: () => createAnthropic({ baseURL: `${process.env.ANTHROPIC_BASE_URL}/v1` })("toy"),
}[process.argv[2]]();
const ask = (prompt, more = {}) => generateText({ model, prompt, ...more });
const seen = {};

seen.answer = (await ask("hello")).text;

seen.stream = "";
for await (const piece of streamText({ model, prompt: "hello" }).textStream) seen.stream += piece;

const add = tool({
  inputSchema: z.object({ x: z.number() }),
  execute: (input) => {
    seen.tool = ["add", input];
    return 2;
  },
});
seen.after_tool = (await ask("add", { tools: { add }, stopWhen: stepCountIs(3) })).text;

seen.object = (await ask("is it?", { output: Output.object({ schema: z.object({ ok: z.boolean() }) }) })).output;

try {
  await ask("too long");
} catch (error) {
  seen.error = [error.name, error.statusCode, error.data.error.code ?? error.data.error.type];
}
console.log(JSON.stringify(seen));
