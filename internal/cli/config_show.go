package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/config"
)

func newConfigCommand(a *app) *cobra.Command {
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration with every default spelled out",
		Long:  `Prints the configuration as it is in force: what holdfast.yaml leaves out stands there with its default.`,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			return a.emit(shownConfig{c})
		},
	}
	schema := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of holdfast.yaml, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(text)
			return err
		},
	}
	return group("config", "Look at the configuration", show, schema)
}

// shownConfig prints a configuration, as YAML or as the same in JSON.
type shownConfig struct{ c *config.Config }

func (s shownConfig) writeText(w io.Writer) error {
	text, err := s.c.Marshal()
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// MarshalJSON turns the YAML that a person gets into JSON.
func (s shownConfig) MarshalJSON() ([]byte, error) {
	text, err := s.c.Marshal()
	if err != nil {
		return nil, err
	}
	var v any // the border to JSON
	if err := yaml.Unmarshal(text, &v); err != nil {
		return nil, fmt.Errorf("read back the configuration as it is shown: %w", err)
	}
	return json.Marshal(v)
}
