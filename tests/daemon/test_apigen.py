"""proto/apigen.py stops on whatever is outside the subset of proto/README.md."""
import os
import subprocess
import sys
import tempfile
import unittest

import harness
import yaml

APIGEN = os.path.join(harness.ROOT, "proto", "apigen.py")


def fragment():
    """A sound one; each test spoils one thing."""
    return {
        "daemon": "testd",
        "paths": {
            "/things/{id}": {
                "get": {
                    "operationId": "getThing", "summary": "Show it.", "tags": ["things"],
                    "x-permission": "token", "x-audit": "none", "x-reply": "data Thing",
                    "parameters": [
                        {"name": "id", "in": "path", "description": "Which.",
                         "schema": {"type": "integer", "minimum": 1, "maximum": 9}}]},
                "patch": {
                    "operationId": "patchThing", "summary": "Change it.", "tags": ["things"],
                    "x-permission": "token", "x-audit": "change", "x-event": "modbusMasterUpdate",
                    "x-body": "partial Thing", "x-reply": "empty", "x-success": 204,
                    "parameters": [
                        {"name": "id", "in": "path", "description": "Which.",
                         "schema": {"type": "integer", "minimum": 1, "maximum": 9}}]},
            },
        },
        "schemas": {
            "Thing": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 8, "default": "a"},
                    "n": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
                    "ratio": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
                    "mode": {"type": "string", "enum": ["on", "off"], "default": "on"},
                    "list": {"type": "array", "maxItems": 2, "default": [1],
                             "items": {"type": "integer", "minimum": 0, "maximum": 5}},
                    "any": {"x-any": True, "maxLength": 8, "default": {"a": 1}},
                },
            },
        },
    }


class Apigen(unittest.TestCase):
    def run_with(self, *docs):
        with tempfile.TemporaryDirectory() as d:
            paths = [os.path.join(d, f"testd{i}.yaml") for i in range(len(docs))]
            for path, doc in zip(paths, docs):
                with open(path, "w", encoding="utf-8") as f:
                    yaml.safe_dump(doc, f)
            done = subprocess.run([sys.executable, APIGEN, "--out", os.path.join(d, "gen"), *paths],
                                  capture_output=True, text=True, timeout=60 * harness.SLOW)
        return done.returncode, done.stderr

    def assert_stops(self, word, spoil):
        doc = fragment()
        spoil(doc["paths"]["/things/{id}"], doc["schemas"]["Thing"]["properties"])
        code, text = self.run_with(doc)
        self.assertEqual(code, 1, f"{word}: {text}")
        self.assertTrue(text.startswith("apigen: "), text)
        self.assertIn(word, text)

    def test_a_sound_fragment_passes(self):
        self.assertEqual(self.run_with(fragment()), (0, ""))

    def test_a_daemon_may_have_several_fragments_that_share_schemas_and_repeat_nothing(self):
        get, patch = fragment(), fragment()
        del get["paths"]["/things/{id}"]["patch"]
        patch["paths"] = {"/thing/{id}": {"patch": patch["paths"]["/things/{id}"]["patch"]}}
        code, text = self.run_with(get, patch)
        self.assertEqual((code, "Thing is in another fragment" in text), (1, True), text)
        del patch["schemas"]
        self.assertEqual(self.run_with(get, patch), (0, ""))
        patch["paths"]["/things/{id}"] = get["paths"]["/things/{id}"]
        code, text = self.run_with(get, patch)
        self.assertEqual((code, "/things/{id} is in another" in text), (1, True), text)

    def test_words_of_an_operation_are_those_of_the_subset(self):
        get = lambda **keys: lambda ops, props: ops["get"].update(keys)
        patch = lambda **keys: lambda ops, props: ops["patch"].update(keys)
        self.assert_stops("unknown key x-laen", get(**{"x-laen": "own"}))
        self.assert_stops("x-lane is", get(**{"x-lane": "shard"}))
        self.assert_stops("x-errors is", get(**{"x-errors": "modbuss"}))
        self.assert_stops("x-success is", get(**{"x-success": 404}))
        self.assert_stops("x-audit is", get(**{"x-audit": "read"}))
        self.assert_stops("needs x-event", patch(**{"x-event": None}))
        self.assert_stops("x-permission is missing", lambda ops, props: ops["get"].pop("x-permission"))
        self.assert_stops("unknown permission", get(**{"x-permission": "SYS_NOTHING"}))
        self.assert_stops("x-reply is", get(**{"x-reply": "datum Thing"}))
        self.assert_stops("only one of them", patch(**{"x-body": "partial many Thing",
                                                       "x-items-max": 5}))
        self.assert_stops("only one of them", patch(**{"x-body": "partial optional Thing"}))
        self.assert_stops("x-items-max", patch(**{"x-body": "many Thing"}))
        self.assert_stops("x-items-max", patch(**{"x-items-max": 5}))
        self.assert_stops("shared lane", patch(**{"x-lane": "shared"}))

    def test_what_may_stream_or_wait_has_a_lane_of_its_own(self):
        for keys in ({"x-reply": "own Thing text/event-stream"}, {"x-defer": True}):
            self.assert_stops("shared lane",
                              lambda ops, props: ops["get"].update({**keys, "x-lane": "shared"}))
        doc = fragment()
        doc["paths"]["/things/{id}"]["get"]["x-reply"] = "own Thing text/event-stream"
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "testd.yaml")
            with open(path, "w", encoding="utf-8") as f:
                yaml.safe_dump(doc, f)
            subprocess.run([sys.executable, APIGEN, "--out", f"{d}/gen", path], check=True)
            with open(f"{d}/gen/routes.c", encoding="utf-8") as f:
                text = f.read()
        row = text[text.index('"getThing"'):]
        self.assertRegex(row, r"^.*\n\s+false, false, true,")  # gather, form, stream

    def test_parameters_are_in_path_or_query(self):
        def spoil(ops, props):
            ops["get"]["parameters"].append({"name": "x", "in": "header",
                                             "schema": {"type": "boolean"}})
        self.assert_stops("is in path or query", spoil)

    def test_no_parameter_is_named_like_an_option_of_the_client(self):
        def spoil(ops, props):
            ops["get"]["parameters"].append({"name": "body", "in": "query",
                                             "schema": {"type": "boolean"}})
        self.assert_stops("body is an option of 'fieldgatectl call'", spoil)

        def many(ops, props):
            ops["get"]["parameters"] += [{"name": f"q{i}", "in": "query",
                                          "schema": {"type": "boolean"}} for i in range(17)]
        self.assert_stops("at most 6 path and 16 query", many)

    def test_members_have_their_bounds(self):
        member = lambda spec: lambda ops, props: props.update(x=spec)
        self.assert_stops("an integer needs", member({"type": "integer", "minimum": 1}))
        self.assert_stops("a number needs", member({"type": "number", "minimum": 1}))
        self.assert_stops("a string needs", member({"type": "string"}))
        self.assert_stops("an array needs", member({"type": "array",
                                                    "items": {"type": "boolean"}}))
        self.assert_stops("x-any needs", member({"x-any": True}))
        self.assert_stops("minimum is above", member({"type": "integer", "minimum": 2,
                                                      "maximum": 1}))
        self.assert_stops("minLength is above", member({"type": "string", "minLength": 2,
                                                        "maxLength": 1}))
        self.assert_stops("never null", member({"type": "array", "maxItems": 1,
                                                "items": {"type": ["boolean", "null"]}}))
        self.assert_stops("unknown key example", member({"type": "boolean", "example": True}))
        self.assert_stops("unknown schema", member({"$ref": "#/schemas/Nothing"}))
        self.assert_stops("unknown format", member({"type": "string", "maxLength": 9,
                                                    "format": "nothing"}))
        self.assert_stops("more than 64 properties", lambda ops, props: props.update(
            {f"b{i}": {"type": "boolean"} for i in range(64)}))

    def test_a_default_is_a_value_of_its_member(self):
        for name, wrong in (("name", ""), ("name", "123456789"), ("name", 1), ("n", 0), ("n", True),
                            ("n", "1"), ("ratio", 2), ("ratio", "0"), ("mode", "half"),
                            ("mode", True), ("list", 1), ("list", [1, 1, 1]), ("list", [6]),
                            ("any", "12345678"), ("name", None)):
            with self.subTest(name=name, default=wrong):
                self.assert_stops("default", lambda ops, props: props[name].update(default=wrong))
