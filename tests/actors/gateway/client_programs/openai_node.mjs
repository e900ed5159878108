// The openai package: chat completions.
import OpenAI from "openai";

const client = new OpenAI();
const add = { type: "function", function: { name: "add", parameters: { type: "object", properties: { x: { type: "number" } } } } };
const say = (content) => [{ role: "user", content }];
const ask = (messages, more = {}) => client.chat.completions.create({ model: "toy", messages, ...more });
const seen = {};

seen.answer = (await ask(say("hello"))).choices[0].message.content;

seen.stream = "";
for await (const chunk of await ask(say("hello"), { stream: true })) seen.stream += chunk.choices[0]?.delta.content ?? "";

const { message } = (await ask(say("add"), { tools: [add] })).choices[0];
const [call] = message.tool_calls;
seen.tool = [call.function.name, JSON.parse(call.function.arguments)];
const result = { role: "tool", tool_call_id: call.id, content: "2" };
seen.after_tool = (await ask([...say("add"), message, result], { tools: [add] })).choices[0].message.content;

const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false };
const response_format = { type: "json_schema", json_schema: { name: "verdict", strict: true, schema } };
seen.object = (await client.chat.completions.parse({ model: "toy", messages: say("is it?"), response_format })).choices[0].message.parsed;

try {
  await ask(say("too long"));
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.code];
}
console.log(JSON.stringify(seen));
