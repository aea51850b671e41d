#!/bin/sh
# Convert Stable Diffusion's three models to MINDIR, in the layout that examples/sd21/main.py --models reads.
set -eu

usage() {
    cat <<'END'
usage: convert_models.sh MODELS [OUT] [OPTION...]

Convert MODELS/{text_encoder,unet,vae_decoder}/model.onnx to OUT/{...}/model.mindir with a batch of one row, which
serves any number of prompts and devices. OUT is MODELS by default. If it is another folder, the tokenizer, the
scheduler and the settings are copied to it, so that it is complete for: examples/sd21/main.py --models OUT

The OPTIONs of "ascend-parallel convert" are passed on for each model. Often needed:
  --devices ascend:0,1      the devices to convert for
  --batch-per-device 2      the batch size of the converted models
  --worker-python PYTHON    the Python that has mindspore_lite, if converter_lite is not on PATH
  --verify                  compare each result with its ONNX file
  --dry-run                 only print the converter's commands

Environment:
  PYTHON                    the Python that has ascend-parallel [python3]
  TEXT_ENCODER_SHAPE        the shapes of inputs with open axes, in the form of --input-shape. For files exported by
  UNET_SHAPE                optimum-cli, for Stable Diffusion 2.1 at 512 x 512:
  VAE_DECODER_SHAPE           input_ids:-1,77
                              sample:-1,4,64,64;timestep:1;encoder_hidden_states:-1,77,1024
                              latent_sample:-1,4,64,64
                              latent_sample:-1,4,64,64
END
}

case ${1:-} in
    "" | -*) usage; [ "${1:-}" = --help ] || exit 2; exit 0 ;;
esac
models=$1
shift
out=$models
case ${1:--} in
    -*) ;;
    *) out=$1; shift ;;
esac

dry_run=
for option; do
    [ "$option" = --dry-run ] && dry_run=yes
done

# convert NAME SHAPE OPTION...
convert() {
    name=$1
    shape=$2
    shift 2
    "${PYTHON:-python3}" -m ascend_parallel convert "$models/$name/model.onnx" --output "$out/$name/model.mindir" \
        --batch-per-device 1 --input-shape "$shape" "$@"
}

convert text_encoder "${TEXT_ENCODER_SHAPE:-}" "$@"
convert unet "${UNET_SHAPE:-}" "$@"
convert vae_decoder "${VAE_DECODER_SHAPE:-}" "$@"

if [ "$out" != "$models" ] && [ -z "$dry_run" ]; then
    cp -R "$models/tokenizer" "$models/scheduler" "$out/"
    for settings in "$models"/model_index.json "$models"/*/config.json; do
        [ -f "$settings" ] || continue
        target=$out/${settings#"$models"/}
        mkdir -p "$(dirname "$target")"
        cp "$settings" "$target"
    done
fi
