// The openai package: responses.
import OpenAI from "openai";

const client = new OpenAI();
const add = { type: "function", name: "add", strict: false, parameters: { type: "object", properties: { x: { type: "number" } } } };
const ask = (input, more = {}) => client.responses.create({ model: "toy", input, ...more });
const seen = {};

seen.answer = (await ask("hello")).output_text;

seen.stream = "";
for await (const event of await ask("hello", { stream: true })) if (event.type === "response.output_text.delta") seen.stream += event.delta;

const first = await ask("add", { tools: [add] });
const call = first.output.find((item) => item.type === "function_call");
seen.tool = [call.name, JSON.parse(call.arguments)];
const result = { type: "function_call_output", call_id: call.call_id, output: "2" };
seen.after_tool = (await ask([{ role: "user", content: "add" }, ...first.output, result], { tools: [add] })).output_text;

const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false };
const text = { format: { type: "json_schema", name: "verdict", strict: true, schema } };
seen.object = (await client.responses.parse({ model: "toy", input: "is it?", text })).output_parsed;

try {
  await ask("too long");
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.code];
}
console.log(JSON.stringify(seen));
