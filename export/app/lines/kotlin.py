"""Kotlin that embeds a photo and a sentence by LiteRT's compiled models."""

from export.app.lines.towers import FILTERS, SCALE, TOKENS, Lines, Towers, names_of, shape_of


def kotlin(towers: Towers) -> Lines | None:
    """Of planes of floats, or of the bytes of pixels; None for others."""
    layout, side = towers.layout, towers.side
    if layout not in (("NCHW", "float32"), ("NHWC", "uint8")):
        return None
    (pixels, image_out), (tokens, text_out) = names_of(towers.image), names_of(towers.text)
    scale, behind = SCALE[towers.rules["resize_mode"]]
    size = "val (w, h) = SIDE.toFloat() to SIDE.toFloat()"
    if scale:
        factor = scale.format(shorter=f"{towers.shorter}f", side="SIDE.toFloat()")
        factor = factor.replace("min(width, height)", "minOf(photo.width, photo.height)").replace(
            "max(width, height)", "maxOf(photo.width, photo.height)"
        )
        size = f"val scale = {factor}\n    val (w, h) = photo.width * scale to photo.height * scale"
    floats = "FloatArray(3 * n) { i -> (argb[i % n] shr (16 - 8 * (i / n)) and 0xFF) / 255f }  // planes of R, G and B"
    octets = (
        "ByteArray(3 * n) { i -> (argb[i / 3] shr (16 - 8 * (i % 3)) and 0xFF).toByte() }  // R, G and B of each pixel"
    )
    kind, values, write = (
        ("FloatArray", floats, "writeFloat") if layout[1] == "float32" else ("ByteArray", octets, "writeInt8")
    )
    image_shape = ",".join(map(str, shape_of(towers.image) or [1, 3, side, side]))
    length = (shape_of(towers.text)[-1:] or [towers.text["tokenizer"].get("context_length", 0)])[0]
    code = f"""// implementation("com.google.ai.edge.litert:litert:2.1.0")
// The files of export/{towers.folder} lie in the app's assets.
import android.content.Context
import android.graphics.*
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer

const val SIDE = {side}

// The photo is upright: turn it before, as its EXIF says.
// {FILTERS}
fun square(photo: Bitmap): Bitmap {{
    {size}
    var near = photo
    while (minOf(near.width / w, near.height / h) >= 2) {{
        near = Bitmap.createScaledBitmap(near, near.width / 2, near.height / 2, true)
    }}
    val square = Bitmap.createBitmap(SIDE, SIDE, Bitmap.Config.ARGB_8888)
    val (left, top) = (SIDE - w) / 2 to (SIDE - h) / 2
    Canvas(square).apply {{
        drawColor(Color.{behind.upper()})
        drawBitmap(near, null, RectF(left, top, left + w, top + h), Paint(Paint.FILTER_BITMAP_FLAG))
    }}
    return square
}}

fun pixels(photo: Bitmap): {kind} {{  // {pixels}: {layout[1]}[{image_shape}]
    val (n, argb) = SIDE * SIDE to IntArray(SIDE * SIDE)
    square(photo).getPixels(argb, 0, SIDE, 0, 0, SIDE, SIDE)
    return {values}
}}

fun run(context: Context, file: String, fill: (TensorBuffer) -> Unit): FloatArray {{
    val model = CompiledModel.create(context.assets, file, CompiledModel.Options(Accelerator.CPU))  // an app keeps it
    val (inputs, outputs) = model.createInputBuffers() to model.createOutputBuffers()
    fill(inputs[0])
    model.run(inputs, outputs)
    return outputs[0].readFloat()
}}

// ids, {tokens}: int32[1,{length}]: {TOKENS}.
fun cosine(context: Context, photo: Bitmap, ids: IntArray): Float {{
    val image = run(context, "{towers.image["file"]}") {{ it.{write}(pixels(photo)) }}  // {image_out}, of unit length
    val text = run(context, "{towers.text["file"]}") {{ it.writeInt(ids) }}  // {text_out}, of unit length
    return image.indices.sumOf {{ (image[it] * text[it]).toDouble() }}.toFloat()
}}"""
    return Lines("kotlin", "LiteRT, Kotlin", code)
