"""Swift that embeds a photo and a sentence by Core ML."""

from export.app.lines.towers import FILTERS, SCALE, TOKENS, Lines, Record, Towers, names_of, shape_of


def swift(towers: Towers) -> Lines:
    """Of packages as Xcode takes them; of pictures, and of arrays of floats."""
    rules, (pixels, image_out), (tokens, text_out) = towers.rules, names_of(towers.image), names_of(towers.text)
    scale, behind = SCALE[rules["resize_mode"]]
    size = "let (w, h) = (side, side)"
    if scale:
        factor = scale.format(shorter=f"{towers.shorter}.0", side="side").replace(
            "width, height", "photo.size.width, photo.size.height"
        )
        size = f"let scale = {factor}\n    let (w, h) = (photo.size.width * scale, photo.size.height * scale)"
    given = (
        f"""func input(_ photo: UIImage, _ model: MLModel) throws -> MLFeatureValue {{
    let takes = model.modelDescription.inputDescriptionsByName["{pixels}"]!.imageConstraint!
    return try MLFeatureValue(cgImage: square(photo), constraint: takes)
}}"""
        if towers.layout[0] == "picture"
        else _swift_array(towers)
    )
    load = [_swift_load(name, record, towers) for name, record in (("image", towers.image), ("text", towers.text))]
    length = shape_of(towers.text)[-1:] or [towers.text["tokenizer"].get("context_length", 0)]
    code = f"""import CoreML
import UIKit

let side = CGFloat({towers.side})

// {FILTERS}
func square(_ photo: UIImage) -> CGImage {{
    {size}
    let format = UIGraphicsImageRendererFormat()
    format.scale = 1
    format.opaque = true
    format.preferredRange = .standard
    return UIGraphicsImageRenderer(size: CGSize(width: side, height: side), format: format).image {{ context in
        UIColor.{behind}.setFill()
        context.fill(CGRect(x: 0, y: 0, width: side, height: side))
        context.cgContext.interpolationQuality = .high
        photo.draw(in: CGRect(x: (side - w) / 2, y: (side - h) / 2, width: w, height: h))  // upright, as its EXIF says
    }}.cgImage!
}}

{given}

func load(_ name: String, function: String? = nil) throws -> MLModel {{
    let configuration = MLModelConfiguration()
    {"configuration.functionName = function  // iOS 18" if _functions(towers) else "configuration.computeUnits = .all"}
    let place = Bundle.main.url(forResource: name, withExtension: "mlmodelc")!
    return try MLModel(contentsOf: place, configuration: configuration)
}}

// Add the packages of export/{towers.folder} to the app's target: Xcode compiles them.
{load[0]}
{load[1]}

// [1, {length[0]}] int32: {TOKENS}.
let ids: [Int32] = []
let row = try MLMultiArray(shape: [1, {length[0]}], dataType: .int32)
for (place, id) in ids.enumerated() {{ row[place] = NSNumber(value: id) }}

let photo = UIImage(named: "photo")!
let pixels = try MLDictionaryFeatureProvider(dictionary: ["{pixels}": input(photo, imageModel)])
let tokens = try MLDictionaryFeatureProvider(dictionary: ["{tokens}": MLFeatureValue(multiArray: row)])
let a = try imageModel.prediction(from: pixels).featureValue(for: "{image_out}")!.multiArrayValue!  // of unit length
let b = try textModel.prediction(from: tokens).featureValue(for: "{text_out}")!.multiArrayValue!  // of unit length
print("cosine", (0..<a.count).reduce(Float(0)) {{ $0 + a[$1].floatValue * b[$1].floatValue }})"""
    return Lines("swift", "Core ML, Swift", code)


def _swift_array(towers: Towers) -> str:
    """The input as planes of floats, from the picture's bytes: R, G, B and one that is not used of each pixel."""
    side, (pixels, _) = towers.side, names_of(towers.image)
    shape = ", ".join(map(str, shape_of(towers.image) or [1, 3, side, side]))
    return f"""func input(_ photo: UIImage, _ model: MLModel) throws -> MLFeatureValue {{  // {pixels}: [{shape}], RGB in [0, 1]
    let (n, sRGB) = ({side}, CGColorSpace(name: CGColorSpace.sRGB)!)
    let context = CGContext(data: nil, width: n, height: n, bitsPerComponent: 8, bytesPerRow: 4 * n, space: sRGB,
                            bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
    context.draw(square(photo), in: CGRect(x: 0, y: 0, width: n, height: n))
    let bytes = context.data!.assumingMemoryBound(to: UInt8.self)
    let array = try MLMultiArray(shape: [{shape}], dataType: .float32)
    array.withUnsafeMutableBytes {{ memory, strides in
        let floats = memory.bindMemory(to: Float32.self)
        for colour in 0..<3 {{
            for place in 0..<(n * n) {{
                let at = colour * strides[1] + place / n * strides[2] + place % n * strides[3]
                floats[at] = Float32(bytes[4 * place + colour]) / 255
            }}
        }}
    }}
    return MLFeatureValue(multiArray: array)
}}"""


def _functions(towers: Towers) -> bool:
    """Whether both towers are functions of one package."""
    return bool(towers.image["file"] == towers.text["file"])


def _swift_load(name: str, record: Record, towers: Towers) -> str:
    function = f', function: "{name}"' if _functions(towers) else ""
    return f'let {name}Model = try load("{record["file"].removesuffix(".mlpackage")}"{function})'
