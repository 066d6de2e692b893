"""TinyCLIP students (arXiv 2309.12314): narrow ViT and text transformers. Sizes from the release's model configurations."""

from students.spec import STUDENTS, PublishedTraining, StudentSpec

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

STUDENTS.register("tinyclip-vit8m16")(
    StudentSpec(
        name="tinyclip-vit8m16",
        model_cfg={
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 10, "width": 256, "patch_size": 16},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 3},
        },
        mean=OPENAI_MEAN,
        std=OPENAI_STD,
        interpolation="bicubic",
        published_params=(8.3, 2.5, 12.6),
        note="TinyCLIP ViT-8M/16 Text-3M",
        training=PublishedTraining(
            source="TinyCLIP, arXiv:2309.12314, one stage of inheritance",
            steps=75_000,
            batch_size=32_768,
            batch_per_process=1_024,
            lr=1e-4,
            lr_floor=0.0,
            weight_decay=0.2,
            beta1=0.9,
            beta2=0.98,
            clip_norm=5.0,
            warmup_share=0.027,  # 2,000 steps of a stage
            epochs=6,
            epochs_note="6 epochs a stage of inheritance",
            objective="tinyclip",
            objective_batch=8_192,
        ),
        activation_mb=20.0,
    )
)
