// The @anthropic-ai/sdk package: messages.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();
const add = { name: "add", input_schema: { type: "object", properties: { x: { type: "number" } } } };
const say = (content) => [{ role: "user", content }];
const ask = (messages, more = {}) => client.messages.create({ model: "toy", max_tokens: 32, messages, ...more });
const seen = {};

seen.answer = (await ask(say("hello"))).content[0].text;

seen.stream = await client.messages.stream({ model: "toy", max_tokens: 32, messages: say("hello") }).finalText();

const { content } = await ask(say("add"), { tools: [add] });
const call = content.find((block) => block.type === "tool_use");
seen.tool = [call.name, call.input];
const result = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "2" }] };
seen.after_tool = (await ask([...say("add"), { role: "assistant", content }, result], { tools: [add] })).content[0].text;

const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false };
const output_config = { format: { type: "json_schema", schema } };
seen.object = JSON.parse((await ask(say("is it?"), { output_config })).content[0].text);

try {
  await ask(say("too long"));
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.type ?? error.error.error.type];
}
console.log(JSON.stringify(seen));
