package config

import (
	"encoding/json"
	"fmt"
	"maps"

	"go.yaml.in/yaml/v3"
)

// jsonSchema is a JSON Schema, or a part of one.
type jsonSchema map[string]any

// Schema returns the JSON Schema of holdfast.yaml, which lets an editor complete keys and mark mistakes.
func Schema() ([]byte, error) {
	s := maps.Clone(file.schema())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "holdfast.yaml"
	s["description"] = "The configuration of Holdfast."
	text, err := json.MarshalIndent(s, "", "  ")
	return append(text, '\n'), err
}

// fallbackJSON returns a default of the description as JSON knows it.
func fallbackJSON(fallback string) any {
	var v any
	if err := yaml.Unmarshal([]byte(fallback), &v); err != nil {
		panic(fmt.Sprintf("config: default %q in the description is no YAML: %v", fallback, err))
	}
	return v
}
